"""What was run, by which rules, and what came out: cells, records, and the pages made from them."""
