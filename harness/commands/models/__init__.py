"""Commands about models: predict, pretrain, check, begin and list them."""
