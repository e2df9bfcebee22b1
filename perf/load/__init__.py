"""Load on a running stack: who is asked, by which generator, and the servers that are started."""
