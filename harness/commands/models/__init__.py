"""Commands about models: predict, pretrain, and list what there is to name."""
