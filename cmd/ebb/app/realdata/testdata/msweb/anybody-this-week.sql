SELECT visitor FROM seen WHERE day > today() - 7
