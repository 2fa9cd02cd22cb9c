"""What only a GPU can show, in one command (`check.sh`); rehearsed on the processor."""
