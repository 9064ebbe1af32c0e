"""What a record says of where its figures come from: code, packages, device, memory, pictures, parts of others."""
