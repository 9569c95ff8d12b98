"""Parts of `stage=merge`: the parents as they are merged, what is gathered of them, what is measured."""
