"""The embedded Triton and the gateway: started, watched, and cleaned up."""
