"""What we learn from: videos and photographs in, validated and encoded clips out (av, dvc, great_expectations)."""
