"""Where the project runs: config files and the environment."""
