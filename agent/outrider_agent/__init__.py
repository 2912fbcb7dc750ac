"""The agent daemon: a keeper that runs attempts in worker processes, and a link that carries its frames."""
