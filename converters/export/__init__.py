"""An artifact → what Triton serves, compared with the policy as it was trained."""
