"""Why a task or an agent is where it is, and what would change that; read only."""
