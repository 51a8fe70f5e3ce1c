"""Reading a config, and what the command line changes in it before anything is built."""
