"""`python -m prune_exp`: see `app.py`."""

from prune_exp.app import main

if __name__ == "__main__":
    main()
