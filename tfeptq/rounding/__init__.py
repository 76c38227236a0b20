"""The choice of integers: layer by layer, or learned by distillation."""
