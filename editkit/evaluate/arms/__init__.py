"""What a model that plans, sketches and inspects gains by it: arms of one budget, its inspector, and what its steps cause."""
