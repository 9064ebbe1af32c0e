"""What `detmodes` does with models: predict, pretrain, check, begin and list them."""
