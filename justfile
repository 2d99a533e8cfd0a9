# Shorthands for dev.py, which needs only Python 3.11 or newer.

default:
    @python3 dev.py

demo *arguments:
    @python3 dev.py demo {{arguments}}

test *arguments:
    @python3 dev.py test {{arguments}}

lint:
    @python3 dev.py lint

format:
    @python3 dev.py format

types:
    @python3 dev.py types

contracts:
    @python3 dev.py contracts

wheel-test *arguments:
    @python3 dev.py wheel-test {{arguments}}

ecosystem *arguments:
    @python3 dev.py ecosystem {{arguments}}

fuzz *arguments:
    @python3 dev.py fuzz {{arguments}}

bench *arguments:
    @python3 dev.py bench {{arguments}}
