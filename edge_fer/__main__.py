"""``python -m edge_fer`` is ``edge-fer``."""

from edge_fer.cli.main import main

if __name__ == "__main__":
    main()
