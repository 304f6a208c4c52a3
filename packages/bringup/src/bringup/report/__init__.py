"""All words and pictures: console, JSON, HTML; English and Chinese."""
