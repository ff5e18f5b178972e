"""Run every step that writes on a disk that fills up, and on one that is read-only, and see that nothing is damaged.

    python tests/tools/full_disk.py

The disk is a file system in memory of a few kilobytes, mounted in a namespace of this process's own (Linux; `unshare`
needs no root where the system allows it). Each step must end with status 2 and one line that names the file, leave what
was there as it was, and write what an uninterrupted run writes once there is room.
"""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from kill_steps import STEPS, Step, Trial, finish, in_a_process, prepare, snapshot, start, temporaries

from common.files import remove

IN_NAMESPACE = "--in_namespace"
PAGE = os.sysconf("SC_PAGE_SIZE")
ROOM = (0.1, 0.5, 0.9)  # of what the step writes


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def room(folder: Path, num_bytes: int | None) -> None:
    """Leave so much room on the disk at `folder`; None for plenty."""
    disk = os.statvfs(folder)
    used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    size = 2**30 if num_bytes is None else max(PAGE, used + num_bytes)
    subprocess.run(["mount", "-o", f"remount,rw,size={size}", str(folder)], check=True)


def written(step: Step, folder: Path) -> int:
    """How many bytes a step's outputs take, in whole pages."""
    files = [file for output in step.outputs for file in (folder / output, *(folder / output).rglob("*"))]
    return sum(-(-file.stat().st_size // PAGE) * PAGE for file in files if file.is_file())


def must_refuse(step: Step, disk: Path, says: str) -> None:
    """Run the step, and see that it ends with one line and leaves no temporary file."""
    status = finish(start(step, disk))
    log = (disk.parent / "log").read_text()
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    if status != 2 or len(errors) != 1 or says not in errors[0] or "Traceback" in log or temporaries(disk):
        raise SystemExit(f"{step.name}: status {status}, {temporaries(disk)} left, said:\n{log}")


def fill(step: Step, trial: Trial, disk: Path) -> None:
    needed = written(step, trial.folder)
    for share in ROOM:
        shutil.copytree(trial.before, disk, dirs_exist_ok=True)
        room(disk, int(share * needed) // PAGE * PAGE)
        must_refuse(step, disk, "No space left on device")
        for name, content in snapshot(disk, step).items():
            if content != trial.expected.get(name):
                raise SystemExit(f"{step.name}: {name} is half written")
        room(disk, None)
        must_finish(step, trial, disk)
    print(f"{step.name}: full, then with room", flush=True)


def lock(step: Step, trial: Trial, disk: Path) -> None:
    shutil.copytree(trial.before, disk, dirs_exist_ok=True)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    must_refuse(step, disk, "Read-only file system")
    room(disk, None)
    must_finish(step, trial, disk)
    print(f"{step.name}: read-only, then not", flush=True)


def must_finish(step: Step, trial: Trial, disk: Path) -> None:
    """Run the step, compare with an uninterrupted run, and empty the disk."""
    status = finish(start(step, disk))
    if status or snapshot(disk, step) != trial.expected or temporaries(disk):
        log = (disk.parent / "log").read_text()
        raise SystemExit(f"{step.name}: with room again, status {status}, {temporaries(disk)} left:\n{log}")
    for path in disk.iterdir():
        remove(path)


def main() -> None:
    base = Path(sys.argv[sys.argv.index(IN_NAMESPACE) + 1])
    if finish(in_a_process(lambda: prepare(base))):
        raise SystemExit("the tiny model could not be made")
    folder, disk = base / "finished", base / "disk"
    folder.mkdir()
    disk.mkdir()
    mount(disk, "size=1g")
    for step in STEPS:
        trial = Trial(step, folder, random.Random(0))
        fill(step, trial, disk)
        lock(step, trial, disk)
        trial.close()


if __name__ == "__main__":
    if IN_NAMESPACE in sys.argv:
        main()
    else:
        import tempfile

        with tempfile.TemporaryDirectory() as name:
            base = str(Path(name).resolve())
            command = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, __file__, IN_NAMESPACE, base]
            sys.exit(subprocess.run(command, check=False).returncode)
