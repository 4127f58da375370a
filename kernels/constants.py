"""Plain numbers that kernels, their references and the compiler agree on; importing them loads no Numba."""

# sums over the flat arenas are kept per block, so that they are added in one order
BLOCK = 1024

# update rules, and the places of their settings
RULES = ("sgd", "sgd_momentum", "sgd_nesterov_momentum", "rmsprop", "adam", "adamw", "lion")
SGD, SGD_MOMENTUM, SGD_NESTEROV_MOMENTUM, RMSPROP, ADAM, ADAMW, LION = range(7)
RATE, MOMENTUM, BETA2, EPS, DECAY, TIME, AVERAGE, AGE = range(8)  # MOMENTUM is mu, d or b1; AGE the steps averaged
SETTINGS = 8

# dtypes that `gather` reads
CODES = {"uint8": 0, "float32": 1, "float64": 2}

# the hash of dropout: (shift, factor) rounds, found by Chris Wellons for their low bias
MIX = ((16, 0x7FEB352D), (15, 0x846CA68B), (16, None))
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: steps through the keys without repeating
KEY_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, None))

# augmentation: how far a picture moves comes from so many bits
MOVES = (1 << 20) - 1

# gelu
GELU_SCALE = 0.7978845608028654  # sqrt(2 / pi)
GELU_CUBE = 0.044715

# the places of maxima in windows of at most so many are bytes: 0 says that there is none
BYTE_PLACES = 255

# a tile of the multiply has 6 or 8 rows, by machine: work in multiples of this leaves none of them half empty on either
WHOLE_TILES = 24

# bytes; so wide is the widest register, too
CACHE_LINE = 64

# winograd: a tile of TILE x TILE places of y reads TILE_READS x TILE_READS places of x; POINTS values along each side
TILE, TILE_READS, POINTS = 4, 6, 6
WIDE = 32  # filters whose values a worker has at a time, where it makes them itself

# convolution by halves: A, B, C along the rows and along the columns
PARTS = 9
