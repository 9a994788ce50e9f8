"""python -m fastft"""

from fastft.cli import main

main()
