"""Who runs what: the queue and its order, which agent fits, which one is chosen, what makes room."""
