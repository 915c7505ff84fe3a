"""What the scripts measure with: counters, memory and clocks, and the core that is measured."""
