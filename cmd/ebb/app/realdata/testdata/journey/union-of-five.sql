SELECT visitor FROM bought WHERE department IN ('cosmetics', 'nutrition', 'floral', 'seafood', 'spirits')
