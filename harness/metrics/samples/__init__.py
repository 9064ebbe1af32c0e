"""What K samples of an image say: mentions, matches, diversity, consensus, reward."""
