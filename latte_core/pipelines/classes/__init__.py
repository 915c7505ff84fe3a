"""Class-conditional and unconditional video."""
