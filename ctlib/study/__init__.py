"""The paper's tables, trained and tested again."""
