"""What one step of the optimizer is made of."""
