"""What the course in notebooks/learn needs: explorers, exercises, figures and a small training loop."""
