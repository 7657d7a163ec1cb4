"""What notebooks show: progress, figures, widgets."""
