"""A driving environment, the training of the default policy and a driver that uses the HTTP API."""
