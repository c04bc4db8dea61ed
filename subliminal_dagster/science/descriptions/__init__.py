"""What SAE features mean: descriptions, fetched or made, and the categories that judges put them into."""
