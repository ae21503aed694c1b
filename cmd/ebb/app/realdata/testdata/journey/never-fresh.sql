SELECT visitor FROM bought EXCEPT SELECT visitor FROM about WHERE category = 'fresh'
