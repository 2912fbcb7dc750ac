"""The coordinator daemon: accepts tasks, decides who runs them, and writes down what became of them."""
