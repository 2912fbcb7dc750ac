"""Circuit breakers of agents and of outside systems, and whom a failure counts against."""
