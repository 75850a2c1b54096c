"""The kernel: causal arithmetic on dots, and the one store that every type is a view of."""
