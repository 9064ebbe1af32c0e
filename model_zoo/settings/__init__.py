"""What a suite may say of each model that is shipped, checked without importing torch or a model library."""
