//! HCL 1 configuration: parsing with line numbers, every fault at once.
