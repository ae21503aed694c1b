SELECT visitor FROM about WHERE category = 'office' EXCEPT SELECT visitor FROM about WHERE category = 'support'
