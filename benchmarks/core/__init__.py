"""What every benchmark shares: turns and statistics, the machine, ceilings, memory, and results on disk."""
