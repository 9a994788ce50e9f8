"""python -m fastft"""

from fastft.child import forget_current_folder

forget_current_folder()

from fastft.cli import main  # noqa: E402  what else is imported must not come from the current folder

main()
