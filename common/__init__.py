"""The code that the steps share: a folder for each part of the method, and the base that all of them use.

errors.py, files.py and cli.py are the base; flags.py holds the flags that scripts share. CONTRIBUTING.md has the tour.
"""
