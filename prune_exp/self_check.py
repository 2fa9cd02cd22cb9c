"""`python -m prune_exp.self_check`: the dense model measured against itself."""

from prune_exp.trial.self_check import main

if __name__ == "__main__":
    main()
