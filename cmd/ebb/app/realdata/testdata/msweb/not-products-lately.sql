SELECT visitor FROM seen EXCEPT SELECT visitor FROM about WHERE category = 'products' AND day > today() - 14
