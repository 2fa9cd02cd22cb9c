"""`python -m prune_exp`: a trial, or with `-m` a sweep."""

from prune_exp.trial.app import main

if __name__ == "__main__":
    main()
