"""`carlarl serve`: starts the embedded Triton and the gateway, watches them, and cleans up."""
