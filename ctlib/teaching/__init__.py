"""What the teaching notebooks are made of: exercises and their checks, explorers, figures, small lessons."""
