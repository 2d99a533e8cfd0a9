import json
import sys

words = sys.stdin.read().split()
report = {"argv": sys.argv[1:], "words": len(words), "python": sys.version_info[:3]}
json.dump(report, sys.stdout)
sys.exit(3)
