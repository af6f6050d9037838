"""The pure core: a response and a gold answer go in, a decision comes out. No HTTP, no clock, no computer algebra.

Read in this order: `tiers` (the whole way of an item); `extraction` and `choice` (where the answer stands); `normal`
and `numerals` (texts and plain numbers); `tokens`, `reader`, `atoms`, `commands`, `parser` (text to tree: `syntax`);
`comparison`, `scalars`, `real_sets` (tree to verdict) over `evaluation` and `values`; `cost` (what is too much).
"""
