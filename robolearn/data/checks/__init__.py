"""What is odd about a dataset: flags of each episode, quality measures of the whole, copies, numbers for people."""
