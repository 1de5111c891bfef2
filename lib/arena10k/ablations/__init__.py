"""The ablation matrix: its cells, their sweeps, and all of them side by side."""
