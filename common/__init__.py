"""What the numbered steps share: file formats, the method's arithmetic, and the edge to the shell."""
